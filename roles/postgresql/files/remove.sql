-- For decommission.yml: the database and its roles, if they are there.
DROP DATABASE IF EXISTS :"database" WITH (FORCE);
DROP ROLE IF EXISTS :"worker";
DROP ROLE IF EXISTS :"application";
DROP ROLE IF EXISTS :"owner";
DROP ROLE IF EXISTS :"monitoring";
